-- A role for this server with the few rights that it needs. Run it as the
-- role that owns chatbot-ui's tables (on Supabase: postgres, in the SQL
-- editor), set a password, and put the role into DATABASE_URL:
--
--   alter role chatbot_ui_api password '…';
--
-- Through Supabase's pooler the user's name has the project's behind it:
-- chatbot_ui_api.abcdefgh.
--
-- It can be run again, and should be after `migrate` made more tables.

do $$
begin
  create role chatbot_ui_api login noinherit;
exception when duplicate_object or unique_violation then null;
end
$$;

grant usage on schema public to chatbot_ui_api;

grant select (user_id, username, use_azure_openai, anthropic_api_key, azure_openai_35_turbo_id,
    azure_openai_45_turbo_id, azure_openai_45_vision_id, azure_openai_api_key, azure_openai_embeddings_id,
    azure_openai_endpoint, google_gemini_api_key, groq_api_key, mistral_api_key, openai_api_key,
    openai_organization_id, openrouter_api_key, perplexity_api_key)
  on public.profiles to chatbot_ui_api;
grant select (id, user_id, sharing, model_id, base_url, api_key) on public.models to chatbot_ui_api;

-- Row level security hides every row from a role without a policy. The server
-- asks for one user's rows only; that stands in its statements.
drop policy if exists "chatbot_ui_api reads" on public.profiles;
create policy "chatbot_ui_api reads" on public.profiles for select to chatbot_ui_api using (true);
drop policy if exists "chatbot_ui_api reads" on public.models;
create policy "chatbot_ui_api reads" on public.models for select to chatbot_ui_api using (true);

-- Models that the operator offers (MODELS): the role may write those rows of
-- users, which begin with this address, and no others.
do $$
begin
  create schema if not exists chatbot_ui_api;
  create table if not exists chatbot_ui_api.offered_models
    (base_url text not null, model_id text not null, primary key (base_url, model_id));
  grant usage on schema chatbot_ui_api to chatbot_ui_api;
  grant select, insert, delete on chatbot_ui_api.offered_models to chatbot_ui_api;
  grant select (name, description, context_length),
      insert (user_id, sharing, api_key, base_url, description, model_id, name, context_length),
      update (sharing, api_key, description, name, context_length), delete
    on public.models to chatbot_ui_api;
  drop policy if exists "chatbot_ui_api offers" on public.models;
  create policy "chatbot_ui_api offers" on public.models to chatbot_ui_api
    using (base_url ~ '^server:[a-z]+$') with check (base_url ~ '^server:[a-z]+$' and api_key = '');
  if to_regclass('public.model_workspaces') is not null and to_regclass('public.workspaces') is not null then
    grant select (id, user_id, is_home) on public.workspaces to chatbot_ui_api;
    grant select (model_id), insert (user_id, model_id, workspace_id) on public.model_workspaces to chatbot_ui_api;
    drop policy if exists "chatbot_ui_api reads" on public.workspaces;
    create policy "chatbot_ui_api reads" on public.workspaces for select to chatbot_ui_api using (true);
    drop policy if exists "chatbot_ui_api offers" on public.model_workspaces;
    create policy "chatbot_ui_api offers" on public.model_workspaces to chatbot_ui_api using (true) with check (true);
  end if;
end
$$;

-- Files and their passages, which the server writes, and the collections that
-- say who may read a file.
do $$
begin
  if to_regclass('public.file_items') is not null then
    grant select (id, user_id, name, file_path, sharing, tokens), update (tokens) on public.files to chatbot_ui_api;
    grant select (id, file_id, user_id, content, tokens, local_embedding, openai_embedding),
        insert (file_id, user_id, created_at, content, tokens, local_embedding, openai_embedding), delete
      on public.file_items to chatbot_ui_api;
    drop policy if exists "chatbot_ui_api" on public.files;
    create policy "chatbot_ui_api" on public.files to chatbot_ui_api using (true) with check (true);
    drop policy if exists "chatbot_ui_api" on public.file_items;
    create policy "chatbot_ui_api" on public.file_items to chatbot_ui_api using (true) with check (true);
  end if;
  if to_regclass('public.collections') is not null and to_regclass('public.collection_files') is not null then
    grant select (id, user_id, sharing) on public.collections to chatbot_ui_api;
    grant select (collection_id, file_id) on public.collection_files to chatbot_ui_api;
    drop policy if exists "chatbot_ui_api reads" on public.collections;
    create policy "chatbot_ui_api reads" on public.collections for select to chatbot_ui_api using (true);
    drop policy if exists "chatbot_ui_api reads" on public.collection_files;
    create policy "chatbot_ui_api reads" on public.collection_files for select to chatbot_ui_api using (true);
  end if;
  -- The vector type's schema on Supabase.
  if to_regnamespace('extensions') is not null then
    grant usage on schema extensions to chatbot_ui_api;
  end if;
end
$$;

-- The ledger of `migrate --usage`, by its functions.
do $$
begin
  if to_regprocedure('chatbot_ui_api.open_to_role()') is not null then
    perform chatbot_ui_api.open_to_role();
  end if;
end
$$;

-- The check that a user was not banned and did not sign out: by a function that
-- has its owner's rights, since a Supabase project's `postgres` may read the
-- schema `auth`, but not open it to others. It tells nothing else of a user.
create schema if not exists chatbot_ui_api;
create or replace function chatbot_ui_api.account_state(
  of_user uuid, of_session uuid, out user_exists boolean, out banned boolean, out session_lives boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $function$
begin
  select account.deleted_at is null,
      coalesce(account.banned_until > now(), false),
      of_session is null or exists (
        select from auth.sessions session
        where session.id = of_session and session.user_id = account.id
          and coalesce(session.not_after > now(), true))
    into user_exists, banned, session_lives
    from auth.users account where account.id = of_user;
end
$function$;
revoke all on function chatbot_ui_api.account_state(uuid, uuid) from public;
grant execute on function chatbot_ui_api.account_state(uuid, uuid) to chatbot_ui_api;
grant usage on schema chatbot_ui_api to chatbot_ui_api;

-- Whether that function can see the rows, as its owner.
do $$
begin
  perform chatbot_ui_api.account_state(null, null);
  if row_security_active('auth.users') or row_security_active('auth.sessions') then
    raise warning 'row level security hides the rows of the schema auth from %: run this as a role that it does not apply to, or set SESSION_CHECK=token', current_user;
  end if;
exception when insufficient_privilege or undefined_table or undefined_column or invalid_schema_name then
  raise warning '% cannot read sessions (%): run this as a role that can, or set SESSION_CHECK=token', current_user, sqlerrm;
end
$$;

-- Rights that earlier versions of this file gave, and that the function replaces.
do $$
declare
  opened regclass;
begin
  if has_schema_privilege('chatbot_ui_api', 'auth', 'usage') then
    revoke usage on schema auth from chatbot_ui_api;
    revoke all on auth.users, auth.sessions from chatbot_ui_api;
    revoke select (id, banned_until, deleted_at) on auth.users from chatbot_ui_api;
    revoke select (id, user_id, not_after) on auth.sessions from chatbot_ui_api;
  end if;
  for opened in
    select polrelid::regclass from pg_policy
    where polname = 'chatbot_ui_api reads' and polrelid in (to_regclass('auth.users'), to_regclass('auth.sessions'))
  loop
    execute format('drop policy "chatbot_ui_api reads" on %s', opened);
  end loop;
  if exists (select from pg_roles where rolname = 'chatbot_ui_api' and rolbypassrls) then
    alter role chatbot_ui_api nobypassrls;
  end if;
exception when insufficient_privilege or invalid_schema_name then
  raise notice 'rights that chatbot_ui_api does not need any more were not taken from it: %', sqlerrm;
end
$$;
