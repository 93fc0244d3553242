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
    using (base_url like 'server:%') with check (base_url like 'server:%' and api_key = '');
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

-- The check that a user was not banned and did not sign out. Where the schema
-- `auth` belongs to somebody who does not let others grant this, it is left
-- out: set SESSION_CHECK=token then.
do $$
begin
  grant usage on schema auth to chatbot_ui_api;
  grant select (id, banned_until, deleted_at) on auth.users to chatbot_ui_api;
  grant select (id, user_id, not_after) on auth.sessions to chatbot_ui_api;
exception when insufficient_privilege then
  raise warning 'the schema auth cannot be opened to chatbot_ui_api: set SESSION_CHECK=token';
end
$$;

-- Where row level security hides those rows too, a policy opens them; where
-- the tables are somebody else's (on Supabase the auth server's), only the
-- role's own attribute does. The rights above still say which columns.
do $$
declare
  hidden regclass;
begin
  for hidden in
    select oid::regclass from pg_class
    where oid in (to_regclass('auth.users'), to_regclass('auth.sessions')) and relrowsecurity
  loop
    execute format('drop policy if exists "chatbot_ui_api reads" on %s', hidden);
    execute format('create policy "chatbot_ui_api reads" on %s for select to chatbot_ui_api using (true)', hidden);
  end loop;
exception when insufficient_privilege then
  begin
    alter role chatbot_ui_api bypassrls;
  exception when insufficient_privilege then
    raise warning 'the rows of the schema auth stay hidden from chatbot_ui_api: set SESSION_CHECK=token';
  end;
end
$$;
